"""The edits benchmark: methods of editing side by side, on composed scenes whose objects and boxes are known."""
