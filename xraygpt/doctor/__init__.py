"""What a configuration needs of the machine it is to run on, found out before it runs: ``xraygpt doctor``."""
