"""``stylereel demo``: the whole line on one real clip, each step redone only where its inputs changed."""
