"""The example that Lockstep is tried with: a loader of the Azure CLI's help, and rules about its commands."""
