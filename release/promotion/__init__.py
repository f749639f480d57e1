"""What moving an environment needs: what can be lacking, asked all of it; then the change that is one commit."""
