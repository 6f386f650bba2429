"""From a request to a plan: look, choose, write down what will be done."""
