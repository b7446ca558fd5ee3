"""The subcommands of `cola`: each is a frozen dataclass, its fields are the flags."""
