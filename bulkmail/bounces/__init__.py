"""What comes back: delivery status notifications, abuse reports and automatic replies, matched to jobs' journals."""
