"""The parts of the Hub on the loopback; `tests.hub_server.HubServer` puts them together."""
