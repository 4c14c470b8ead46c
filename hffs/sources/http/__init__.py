"""Plain HTTP, shared by every source that speaks it."""
