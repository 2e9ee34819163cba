"""Many images into one folder: a work list that processes share, resumes after a kill, and a ledger of what was made.

Importing this room doesn't load torch.
"""

from bitvar.bulk.ledger import LEDGER, LedgerLine, read_ledger
from bitvar.bulk.run import WorkResult, generate_work
from bitvar.bulk.work import DrawingHooks, WorkItem

__all__ = ["LEDGER", "DrawingHooks", "LedgerLine", "WorkItem", "WorkResult", "generate_work", "read_ledger"]
