"""Nodes of ComfyUI. This folder is a custom node: link or copy it into ComfyUI's `custom_nodes`, under any name.

bitvar itself must be installed in ComfyUI's environment; a copy of this folder only says where the nodes are.
"""

from bitvar.integrations.comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
