"""The contract that gateway and worker share.

Entry rule: a module lives here because both the gateway and the worker import it; when one of them
stops doing so, the module moves home. Nothing here imports gateway, worker, herald or devstack.
"""
