"""Run the image processor."""

from services.image_processor.app import main

if __name__ == "__main__":
    main()
