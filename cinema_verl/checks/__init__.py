"""What is said before a run: does the machine fit (`doctor`), do data and configuration (`preflight`, `gallery`)?"""
