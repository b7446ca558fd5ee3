"""What few need, on names that the rooms below export: routers, GGUF files, Every Eval Ever."""
