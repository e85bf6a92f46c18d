"""What the images are made of: bills of materials, known vulnerabilities, licences."""
