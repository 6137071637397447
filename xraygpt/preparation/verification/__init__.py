"""Does a prepared folder hold what a training needs?"""
