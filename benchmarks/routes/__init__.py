"""The routes of a call beside what they lead to, and the protection around an LM, with their targets."""
