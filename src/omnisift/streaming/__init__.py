"""Live streams: video and audio that come piece by piece, and questions at any moment, in bounded memory."""
