"""`crossdock demo`: the main job on a partner's server that runs in this process, proved from outside."""
