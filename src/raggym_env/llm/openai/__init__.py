"""The `openai:` back end: any OpenAI-compatible server."""
