"""What everything else stands on: devices, memory, files, locks, paths, checks of settings. Import its modules.

- `devices`: seeds, deterministic switches, the choice of device and precision.
- `memory`: freed memory is reused from step to step.
- `files`: written whole or not at all.
- `processes`: several that work on one training.
- `locks`: one process at a time in a run's folder.
- `paths`: where things are.
- `bars`, `console`: progress, and what is printed.
- `settings`: checks of settings.
"""
