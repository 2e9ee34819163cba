"""Prompt rewriting: a language model expands short prompts before they are drawn, once each.

Importing this room loads neither torch nor transformers.
"""

from bitvar.rewriting.address import check_url
from bitvar.rewriting.cache import RewriteCache
from bitvar.rewriting.endpoint import EndpointRewriter
from bitvar.rewriting.instruction import INSTRUCTION
from bitvar.rewriting.recorded import RecordedRewriter, read_rewrites, write_rewrites
from bitvar.rewriting.rewrite import RewriteError, Rewriter, Rewritten, rewrite_prompts

__all__ = [
    "INSTRUCTION",
    "EndpointRewriter",
    "RecordedRewriter",
    "RewriteCache",
    "RewriteError",
    "Rewriter",
    "Rewritten",
    "check_url",
    "read_rewrites",
    "rewrite_prompts",
    "write_rewrites",
]
