"""The HTTP service: indexes and models behind the endpoints that the field's clients speak. See docs/serving.md."""
