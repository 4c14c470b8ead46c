"""The control protocol, both ends: server, HTTP framing, unix socket, messages, client, records of live mounts."""
