"""Doctor: checks everything a run needs on this machine, and says how to fix what fails.

``look`` collects the facts once, as plain data. Each check is a small function from these facts to
verdicts, and ``examine`` runs them all. ``report_run`` explains how a run ended, and ``bundle``
packs a bug report.
"""
