"""The resources server of raggym-env, started by NeMo Gym."""

from raggym_env.integrations.nemo_gym import SearchServer

if __name__ == "__main__":
    SearchServer.run_webserver()
