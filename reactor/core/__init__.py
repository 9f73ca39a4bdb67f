"""The loop and what a service may yield to it: requests, tasks, timers, polling, threads.

Imports nothing of the other rooms; everything else in the package is built on it.
"""
