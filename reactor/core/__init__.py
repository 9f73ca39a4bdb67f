"""The loop and what a service may yield to it: requests, tasks, timers, pollers, thread calls.

Imports no other room of the reactor. Every other room is built on it.
"""
