"""Who a node is: its keys, its signed descriptor, the state folder that holds them."""
