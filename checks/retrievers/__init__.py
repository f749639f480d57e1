"""The retrievers of suites of kind ``rag``, one file each: ``checks.kinds.retriever``."""
