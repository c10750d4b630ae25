"""What ``python -m mckean demo`` shows: one module a demo, with ``main(folder, ...) -> exit status``."""
