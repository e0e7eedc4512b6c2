"""What runs day and night: watches music folders, hears new files, writes genre tags, keeps the record."""
