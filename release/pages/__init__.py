"""Renders documents: Markdown from templates, HTML from Markdown, and the frame of every page."""
