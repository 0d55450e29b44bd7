"""Cold start (paper: Retrieval-Based Tree Sampling): two distinct verified trajectories a question, none paid twice."""
