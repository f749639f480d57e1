"""The verdict, and the policy that it is made under."""
