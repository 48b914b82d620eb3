"""The storage suite, one module per theme; `suite.StorageSuite` is the sum."""
