"""The loop, and the requests that a service may yield to it: tasks, timers, pollers, thread calls.

Imports no other room of the reactor. Every other room is built on it.
"""
