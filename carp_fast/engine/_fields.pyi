"""The fields of a virtual host's state: (name, place, width, count, place in a checkpoint)."""

HOST_FIELDS: list[tuple[str, int, int, int, int | None]]
HOST_BYTES: int
CHECKPOINT_BYTES: int
REBUILT: dict[str, str]
