"""The local page: words in, pictures out, for one run (extra `app`).

- `gallery`: the pictures of a run and those that were added, searched by any of its models.
- `uploads`: pictures that were added, one file each in the run's folder.
- `web`: what the page may ask, and who may ask it.
- `page.html`: the page, in one file that needs no network.
- `server`: the address, and what is said at its start. `helpers.runs.app` is its command line.
"""
