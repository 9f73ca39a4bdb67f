"""What services share: channels, signals, selections, scopes and timeouts. Built on `reactor.core`."""
