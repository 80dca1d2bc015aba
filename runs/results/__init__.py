"""What runs leave behind: their folders, records and statistics, and what is made of them: tables, pictures, comparisons."""
