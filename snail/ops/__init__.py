"""Operations with a fast form and a plain reference."""
