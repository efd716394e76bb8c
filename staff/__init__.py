"""How staff get into the back-office, and what each role may do there; knows nothing of traffic and provider keys."""
