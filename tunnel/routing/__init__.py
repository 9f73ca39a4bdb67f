"""Which way a message goes: routes, guards, address rules, what is known of peers."""
