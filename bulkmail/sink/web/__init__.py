"""The page of `bulkmail sink --web`: what came, for people, and the same as JSON, for tests."""
