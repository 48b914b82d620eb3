"""crossdock: moves files between endpoints and proves what arrived where."""
