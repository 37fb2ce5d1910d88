"""Who may ask the index what: users, their roles, API keys and permissions.

What is here knows no protocol: the service authenticates requests with it, the command line manages accounts. The
queries are in `stores/postgres/users.py` and `api_keys.py`.
"""
