"""Doctor: everything that a run needs of this machine, checked, each with what mends it.

``look`` sees what is here, once, as plain data; each check is a small function from that to
verdicts; ``examine`` puts them together. ``past`` tells of a run, ``bundle`` packs a bug report.
"""
