"""Evidence on caching models that share blocks; docs/caching.md is written from what it prints."""
