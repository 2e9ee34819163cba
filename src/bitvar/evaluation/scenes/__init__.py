"""Whether models draw what prompts ask for: pictures of the fixed prompts, judged and scored."""
