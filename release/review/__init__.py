"""The pull request's comment: facts, then sections as blocks (pure functions), then Markdown or text."""
