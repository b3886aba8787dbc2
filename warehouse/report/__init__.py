"""The HTML report (marts, runs and quality in one offline file) and the marketing lead sheet."""
