"""bitvar inside other programs: a diffusers pipeline, nodes of ComfyUI, and a server of the Model Context Protocol."""
