"""The pull request's comment: facts, then sections (pure functions), then Markdown or text. Two records compared."""
